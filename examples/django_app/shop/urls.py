from django.urls import path

from shop import views

urlpatterns = [
    path("", views.front),
    path("products/<int:number>", views.product),
    path("report", views.report),
]
