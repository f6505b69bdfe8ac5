"""Reading foreign files with bounds; writing files and folders atomically."""
