"""Speed of Legenda and its peers on a CPU, on the same weights and rows in one run."""
