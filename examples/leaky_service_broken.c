/* A C extension that leaks in the two ways that are usual, for leaky_service.py.
 *
 * cc -shared -fPIC $(python3-config --includes) leaky_service_broken.c -o broken.so
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

static PyObject *measure(PyObject *module, PyObject *text)
{
    PyObject *copy = PyUnicode_FromFormat("measured: %U", text);
    if (copy == NULL) {
        return NULL;
    }
    /* The mistake: there is no Py_DECREF(copy). */
    return PyLong_FromSsize_t(PyUnicode_GetLength(copy));
}

static PyObject *weigh(PyObject *module, PyObject *parts)
{
    /* The mistake: nobody gives this reference up. */
    Py_INCREF(parts);
    return PyLong_FromSsize_t(PyObject_Size(parts));
}

static PyMethodDef methods[] = {
    {"measure", measure, METH_O, "Returns the length of a text."},
    {"weigh", weigh, METH_O, "Returns how many parts there are."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "broken", NULL, -1, methods, NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit_broken(void)
{
    return PyModule_Create(&definition);
}
