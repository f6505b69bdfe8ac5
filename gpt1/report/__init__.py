"""report.html of runs, and the building blocks of all HTML reports. Reads files only."""
