"""The web: what people look at in a browser, on the same port as the API.

    static.py     stylesheet, scripts and icon, under addresses that change with their content
    pages.py      the frame of every page: layout, security headers, refusals as pages
    forms.py      what a form may send, and from where
    markdown.py   markdown → HTML in the components of the stylesheet
    manual.py     /docs: written once as markdown, filled in with this house's address, models, prices and rules
    offers.py     a model as it is offered here: its prices as people read them
    models.py     /models
    site.py       all of it, put on its paths

Every page is right when it arrives; script only adds copying and the like. Nothing here decides anything: values are handed to
templates ready.
"""
