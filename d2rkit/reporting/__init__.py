"""From run folders to tables, paired tests, figures and files for others; published numbers beside ours."""
