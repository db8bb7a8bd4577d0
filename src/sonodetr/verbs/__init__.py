"""What the command line can do: one verb a module, which imports nothing heavy until it runs."""
