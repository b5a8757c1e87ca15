//! Requests of ASGI applications.
//!
//! Here rather than in Python because each step costs an empty request much more than its own
//! time: whatever code it runs is cold.
#![forbid(unsafe_code)]

use std::sync::OnceLock;

use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};

use super::requests::{KEY, Request, Routing};

/// What makes an `rprof.request`, with the limits of `model`, of each scope.
#[pyclass(frozen, module = "rprof._native")]
pub(crate) struct AsgiRequests {
    model: Py<Request>,
    /// The route of a request whose router has not chosen it yet.
    unmatched: Py<PyString>,
    /// Whether there is a router, though the scope says nothing of its application.
    has_router: bool,
    /// The application of the scopes, once one has been found that has a router.
    routed: OnceLock<Py<PyAny>>,
    choose_route: Option<Py<PyAny>>,
    make_route: Py<PyAny>,
}

#[pymethods]
impl AsgiRequests {
    #[new]
    #[pyo3(signature = (model, make_route, unmatched, has_router, choose_route=None))]
    fn new(
        model: Py<Request>,
        make_route: Py<PyAny>,
        unmatched: Py<PyString>,
        has_router: bool,
        choose_route: Option<Py<PyAny>>,
    ) -> Self {
        Self {
            model,
            unmatched,
            has_router,
            routed: OnceLock::new(),
            choose_route,
            make_route,
        }
    }

    /// Begins the request of a scope, and returns it.
    fn begin<'py>(&self, scope: &Bound<'py, PyAny>) -> PyResult<Bound<'py, Request>> {
        let begun = self.of(scope)?;
        Request::begin(&begun)?;
        Ok(begun)
    }

    /// Returns the request of a scope, which has it from now on.
    fn of<'py>(&self, scope: &Bound<'py, PyAny>) -> PyResult<Bound<'py, Request>> {
        let py = scope.py();
        let path = scope.get_item(intern!(py, "path"))?;
        let has_router = self.has_router || self.is_routed(scope)?;
        let known = has_router.then_some(&self.unmatched);
        let route = match (&self.choose_route, known) {
            (Some(choose_route), _) => choose_route.bind(py).call1((scope, &path, known))?,
            (None, Some(known)) => known.bind(py).clone().into_any(),
            (None, None) => self.make_route.bind(py).call1((&path,))?,
        };
        let is_awaited = has_router && route.eq(&self.unmatched)?;
        let root = is_awaited
            .then(|| get(scope, intern!(py, "root_path")))
            .transpose()?;
        let root = root.map(|root| root.unwrap_or_else(|| intern!(py, "").clone().into_any()));
        let outer = get(scope, intern!(py, KEY))?;
        let routing = Routing {
            root: root.map(Bound::unbind),
            outer: outer.and_then(|outer| Some(outer.cast_into::<Request>().ok()?.unbind())),
        };
        let method = scope.get_item(intern!(py, "method"))?.unbind();
        let empty = intern!(py, "").clone().into_any().unbind();
        let route = route.cast_into::<PyString>()?.unbind();
        let model = self.model.get();
        let begun = model.routed(routing, [method, empty, path.unbind()], route);
        let begun = Bound::new(py, begun)?;
        scope.set_item(intern!(py, KEY), &begun)?;
        Ok(begun)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(self.routed.get())?;
        visit.call(&self.choose_route)?;
        visit.call(&self.make_route)
    }
}

impl AsgiRequests {
    /// Whether the application of the scope has a router.
    fn is_routed(&self, scope: &Bound<'_, PyAny>) -> PyResult<bool> {
        let py = scope.py();
        let Some(application) = get(scope, intern!(py, "app"))? else {
            return Ok(false);
        };
        if let Some(known) = self.routed.get()
            && application.is(known)
        {
            return Ok(true);
        }
        let is_routed = application.hasattr(intern!(py, "router"))?;
        if is_routed {
            // Of several the first is as good as any.
            drop(self.routed.set(application.unbind()));
        }
        Ok(is_routed)
    }
}

/// Tells the request of a scope, and those around it, which route a router has chosen.
///
/// A leaf's own `path` is its pattern if nothing is above it. Else `make_pattern` is asked, with route,
/// scope and what the whole application is mounted at.
#[pyfunction]
pub(crate) fn note_route(
    route: &Bound<'_, PyAny>,
    scope: &Bound<'_, PyAny>,
    is_leaf: bool,
    make_pattern: &Bound<'_, PyAny>,
) -> PyResult<()> {
    let py = route.py();
    let mut next = get(scope, intern!(py, KEY))?;
    while let Some(begun) = next {
        let Ok(begun) = begun.cast_into::<Request>() else {
            break;
        };
        let Some(routing) = begun.get().routing() else {
            break;
        };
        if let Some(root) = &routing.root {
            let root = root.bind(py);
            let pattern = match is_leaf && is_plain(scope, root)? {
                true => route.getattr(intern!(py, "path"))?,
                false => make_pattern.call1((route, scope, root))?,
            };
            Request::set_route(&begun, &pattern)?;
        }
        next = routing
            .outer
            .as_ref()
            .map(|outer| outer.bind(py).clone().into_any());
    }
    Ok(())
}

/// Whether nothing is mounted, or included by FastAPI, above the route that was chosen.
fn is_plain(scope: &Bound<'_, PyAny>, root: &Bound<'_, PyAny>) -> PyResult<bool> {
    let py = scope.py();
    if get(scope, intern!(py, "fastapi"))?.is_some() {
        return Ok(false);
    }
    get(scope, intern!(py, "root_path"))?.map_or_else(
        || root.eq(intern!(py, "")),
        |mounted_at| mounted_at.eq(root),
    )
}

/// `scope.get(name)`
fn get<'py>(
    scope: &Bound<'py, PyAny>,
    name: &Bound<'py, PyString>,
) -> PyResult<Option<Bound<'py, PyAny>>> {
    if let Ok(scope) = scope.cast_exact::<PyDict>() {
        return scope.get_item(name);
    }
    let found = scope.call_method1(intern!(scope.py(), "get"), (name,))?;
    Ok((!found.is_none()).then_some(found))
}
