"""The commands: thin and typed; a command's code is imported when it runs."""
