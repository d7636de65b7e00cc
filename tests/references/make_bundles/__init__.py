"""Makes tiny random-weight bundles in published layouts, with reference outputs."""
