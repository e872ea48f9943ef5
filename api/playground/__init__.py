"""The page at `/`: speech in the browser, heard while it is made. Plain files, no build step, served from memory."""
