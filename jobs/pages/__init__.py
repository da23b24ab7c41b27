"""HTML pages of the verticals: one file each, without scripts; charts are SVG."""
