"""Speed of Legenda beside its peers on a CPU, on the same weights and rows in one run."""
