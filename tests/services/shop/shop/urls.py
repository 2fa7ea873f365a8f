from catalog import views
from django.urls import path

urlpatterns = [
    path("orders", views.orders),
    path("page", views.page),
    path("rows", views.rows),
    path("leaky", views.leaky),
    path("truth", views.truth),
]
