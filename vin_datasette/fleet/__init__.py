"""Fleets: many VINs out of files, down the one path, and beside the fleet's own columns into files."""
