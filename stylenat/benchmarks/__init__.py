"""Speed tables: what `stylenat bench` measures, prints and writes."""
