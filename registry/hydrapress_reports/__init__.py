"""Reports: one self-contained page, a picture and a Markdown table for a job, a sweep or a benchmark."""
