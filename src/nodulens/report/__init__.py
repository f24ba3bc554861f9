"""What an analysis found: the record, its JSON and CSV, the page and its pictures, and the folder that holds them."""
