"""`lyre doctor`: looks at the machine, the settings and the files, or at a running server, and says what to do."""
