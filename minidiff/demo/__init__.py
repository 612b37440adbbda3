"""A page in the browser: draw, restore, dehaze, and start a chain anywhere. `minidiff demo` serves it.

An example of how to build on the package. `drawing` and `photos` hold what the tabs do: functions that take what a user
chose, call the package, and yield what is to be seen. `page` lays out the components, and `serve` runs the server. Only
these two know Gradio, and nothing but this folder does.
"""
