"""Evaluations of opened models and of lists, and reports of runs as HTML.

An evaluation goes from flags to results: `evaluations.py`. A report goes from runs to
one page:

    measured_run.py   one pass over the users of a run, computed once and kept
    report_data.py    all numbers of a report: metrics, slices, calibration, curves
    charts.py         pictures as SVG text, from numbers
    sections*.py      the parts of the page
    report_page.py    the page: style, navigation, parts
"""
