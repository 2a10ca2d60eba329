"""What is measured, each measure defined once and known by its name."""
