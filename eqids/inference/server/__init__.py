"""The HTTP server of `python -m eqids.serve`, on Starlette and uvicorn.

    bodies.py       the JSON of requests and answers, as types
    operations.py   the table of endpoints: path, types, statuses and the function of each
    application.py  reads a request, checks its key, runs its operation and answers
    openapi.py      the OpenAPI document of that table
    web_server.py   listens, starts up, and drains after a signal

Their state is `service.py`: the engine, and the served model with its names.
"""
