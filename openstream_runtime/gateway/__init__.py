"""What the edge may ask of a node: one method for each thing an outsider can want."""
