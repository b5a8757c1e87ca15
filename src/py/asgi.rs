//! Requests of ASGI applications.
//!
//! Here rather than in Python because each step costs an empty request much more than its own
//! time: whatever code it runs is cold.
#![forbid(unsafe_code)]

use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString, PyType};

use super::requests::{KEY, Request};

/// What makes an `rprof.request`, with the limits of `model`, of each scope.
#[pyclass(frozen, module = "rprof._native")]
pub(crate) struct AsgiRequests {
    model: Py<Request>,
    /// The route of a request whose router has not found it yet.
    unmatched: Py<PyString>,
    /// Whether there is a router, though the scope says nothing of its application.
    has_router: bool,
    /// The class of scopes that are watched.
    watched: Py<PyType>,
    choose_route: Option<Py<PyAny>>,
    make_route: Py<PyAny>,
}

#[pymethods]
impl AsgiRequests {
    #[new]
    #[pyo3(signature = (model, make_route, unmatched, watched, has_router, choose_route=None))]
    fn new(
        model: Py<Request>,
        make_route: Py<PyAny>,
        unmatched: Py<PyString>,
        watched: Py<PyType>,
        has_router: bool,
        choose_route: Option<Py<PyAny>>,
    ) -> Self {
        Self {
            model,
            unmatched,
            has_router,
            watched,
            choose_route,
            make_route,
        }
    }

    /// Returns the request of a scope, and the scope to pass on.
    fn of<'py>(
        &self,
        scope: Bound<'py, PyAny>,
    ) -> PyResult<(Bound<'py, Request>, Bound<'py, PyAny>)> {
        let py = scope.py();
        let path = scope.get_item(intern!(py, "path"))?;
        let has_router = self.has_router || has_router(&scope)?;
        let known = has_router.then_some(&self.unmatched);
        let route = match (&self.choose_route, known) {
            (Some(choose_route), _) => choose_route.bind(py).call1((&scope, &path, known))?,
            (None, Some(known)) => known.bind(py).clone().into_any(),
            (None, None) => self.make_route.bind(py).call1((&path,))?,
        };
        let is_to_be_found = has_router && route.eq(&self.unmatched)?;
        let method = scope.get_item(intern!(py, "method"))?.unbind();
        let root = intern!(py, "").clone().into_any().unbind();
        let route = route.cast_into::<PyString>()?.unbind();
        let begun = Bound::new(py, self.model.get()._of(method, root, path.unbind(), route))?;
        scope.set_item(intern!(py, KEY), &begun)?;
        if !is_to_be_found {
            return Ok((begun, scope));
        }
        let watched = self.watched.bind(py).call1((&scope,))?;
        watched.setattr(intern!(py, "_begun"), &begun)?;
        let root = get(&scope, intern!(py, "root_path"), intern!(py, "").as_any())?;
        watched.setattr(intern!(py, "_root"), root)?;
        watched.setattr(intern!(py, "_outer"), scope)?;
        Ok((begun, watched))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.choose_route)?;
        visit.call(&self.make_route)
    }
}

fn has_router(scope: &Bound<'_, PyAny>) -> PyResult<bool> {
    let py = scope.py();
    let application = get(scope, intern!(py, "app"), py.None().bind(py))?;
    application.hasattr(intern!(py, "router"))
}

/// `scope.get(name, default)`
fn get<'py>(
    scope: &Bound<'py, PyAny>,
    name: &Bound<'py, PyString>,
    default: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    match scope.cast_exact::<PyDict>() {
        Ok(scope) => Ok(scope.get_item(name)?.unwrap_or_else(|| default.clone())),
        Err(_) => scope.call_method1(intern!(scope.py(), "get"), (name, default)),
    }
}
