"""The notebook's door: a widget, magics, and how vehicles show themselves."""
