"""The packaged demonstration: a small base model, two adapters tuned from it, and the recipes that made them."""
