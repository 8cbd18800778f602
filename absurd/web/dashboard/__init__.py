"""The dashboard: what runs, what waits for what, what failed and why; and the means to mend it.

Mounted below any prefix of an application of your own, or served alone by ``absurdctl dashboard``::

    web.include_router(absurd.web.dashboard.router(app), prefix="/ops")
    web.mount("/ops", absurd.web.dashboard.create_app(app))

How to add a page ``things`` at ``/things``:

1. A module ``things.py`` with ``PAGE = Page("things", "/things", "Things", show, {"delete": delete})``; ``page.py`` says what the
   functions are given and return. ``show(visit)`` answers the variables of the template, ``delete(visit, fields)`` is the action
   of a form and answers ``Done("Deleted.")``. SQL is in ``sql/functions/inspect_*.sql``, its Python side in ``absurd/queries``.
2. ``PAGE`` in the list of ``pages.py``, whose order is that of the navigation; a page with ``section=…`` has no entry there.
3. A template ``templates/things.html`` that begins like the others: it extends ``base.html``, imports ``macros.html`` as ``ui``,
   and fills ``content``; ``head`` takes further style sheets from ``static/``. All links begin with ``{{ root }}``, so that they
   hold below any prefix: ``{{ root }}tasks/{{ id }}``. Values of the URL are quoted by the filter ``urlencode``.

What the frame does for every page:

- ``visit.read_only`` (in templates: ``read_only``) says that nothing may be changed: ``ui.action()`` then shows no form, and
  every POST is answered 403. Forms that are written out hold ``{{ ui.csrf() }}``, are sent to ``{{ ui.target("delete") }}`` and
  stand in ``{% if not read_only %}``.
- ``ui.action(name, label, fields, confirm=…)`` is a form with one button; ``ui.state()``, ``ui.task()``, ``ui.pager()``,
  ``ui.document()``, ``ui.inline()``, ``ui.empty()`` and the filters of ``render.py`` (``age``, ``elapsed``, ``duration``,
  ``count``, ``short_id``, ``size``, …) show the usual things. JSON is shown by ``ui.document()`` and ``ui.inline()`` alone: they
  hide what is to be hidden.
- Elements with an id and ``data-live`` are brought up to date every two seconds; focus, selection and open ``details`` stay, and
  forms that somebody fills in too. Rows of such tables have an ``id`` of their own, so that they are found again.
- The policy forbids inline scripts and styles, also ``style="…"``: in SVG use attributes (``x``, ``width``) and classes.
- Tables of class ``rows`` become cards on a phone: each ``td`` has a ``data-label``, but for the first, of class ``name``.
- ``NotFound("There is no task …")`` answers 404; other errors become pages too.
"""

from __future__ import annotations

from absurd.web.dashboard.app import create_app, router

__all__ = ["create_app", "router"]
