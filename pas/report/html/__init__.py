"""Results as pages for a browser: a file each, with everything in it."""
