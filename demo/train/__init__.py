"""Scripts that make the bundled demo voice from public texts and open teachers (see README.md)."""
