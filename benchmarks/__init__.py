"""What the library costs, measured: one file per group of claims. See README.md for how to run them."""
