import time

import rprof
from django.http import HttpRequest, HttpResponse, JsonResponse


def front(request: HttpRequest) -> HttpResponse:
    return HttpResponse("shop")


def product(request: HttpRequest, number: int) -> HttpResponse:
    """Compute a check digit anew for each answer, slowly."""
    with rprof.labels(kind="rare" if number % 10 == 0 else "usual"):
        return JsonResponse({"number": number, "check": check_digit(number)})


def check_digit(number: int) -> int:
    total = 0
    for weight in range(1, 200_000):
        total = (total + number * weight) % 97
    return total


def report(request: HttpRequest) -> HttpResponse:
    """Wait for what another service would do: that costs no CPU time, but somebody's patience."""
    wait_for_other_service()
    return JsonResponse({"products": 100})


def wait_for_other_service() -> None:
    time.sleep(0.7)
