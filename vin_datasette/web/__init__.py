"""The Datasette door. Datasette looks for hooks, and beside them for `templates/` and
`static/`, in the package that its entry point names: this one."""

from vin_datasette.web.plugin import (
    asgi_wrapper as asgi_wrapper,
    canned_queries as canned_queries,
    database_actions as database_actions,
    extra_css_urls as extra_css_urls,
    extra_js_urls as extra_js_urls,
    extra_template_vars as extra_template_vars,
    filters_from_request as filters_from_request,
    get_metadata as get_metadata,
    homepage_actions as homepage_actions,
    menu_links as menu_links,
    permission_allowed as permission_allowed,
    permission_resources_sql as permission_resources_sql,
    prepare_connection as prepare_connection,
    prepare_jinja2_environment as prepare_jinja2_environment,
    register_actions as register_actions,
    register_output_renderer as register_output_renderer,
    register_routes as register_routes,
    render_cell as render_cell,
    startup as startup,
    table_actions as table_actions,
)
