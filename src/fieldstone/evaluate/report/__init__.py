"""An evaluation on paper: JSON, Markdown and one page."""
