"""The web: what people look at in a browser, on the same port as the API.

    static.py     stylesheet, scripts and icon, under addresses that change with their content
    pages.py      the frame of every page: layout, security headers, refusals as pages
    page.py       one request of a page that knows whom it is for, and the ways to answer; hall.py: who is let in where
    forms.py      what a form may send, and from where; notes.py: what an act leaves for the page after it
    live.py       parts that stay up to date, by server-sent events
    text.py       how values are written for people; charts.py, states.py, qr.py: how they are drawn
    markdown.py   markdown → HTML in the components of the stylesheet
    manual.py     /docs: written once as markdown, filled in with this house's address, models, prices and rules
    offers.py     a model as it is offered here: its prices as people read them; levels.py, requests.py, standing.py:
                  how limits, one request and an upstream stand, in words
    models.py     /models; entry.py: sign-in and sign-up; key_page.py: /key
    dashboard/    what users see of their own; admin/: what admins see and do
    site.py       all of it, put on its paths

Every page is right when it arrives; script only adds copying, live parts and the like. Nothing here decides anything: acts and
look-ups are the desk's, values are handed to templates ready.
"""
