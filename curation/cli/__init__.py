"""The commands, a file for each group of them. Nothing heavy is imported before a command needs it."""
