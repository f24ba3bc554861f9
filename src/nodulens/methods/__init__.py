"""What a method is: its recipe, the catalogue of methods, the record of a training run, and how a method is loaded."""
