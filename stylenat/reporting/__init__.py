"""`stylenat report`: what training runs wrote, as one HTML page that needs no other file."""
