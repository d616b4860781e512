"""A page on which models draw side by side, served here or as a Space of the Hugging Face Hub.

Only `page` and `serve` import gradio, an optional package. No file is a component.
"""
