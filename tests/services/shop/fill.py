"""Makes the database: 40 customers, 300 orders."""

import os

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "shop.settings")
django.setup()

from catalog.models import Customer, Order  # noqa: E402
from django.db import connection  # noqa: E402

with connection.schema_editor() as schema:
    schema.create_model(Customer)
    schema.create_model(Order)
customers = [Customer.objects.create(name=f"customer {i}") for i in range(40)]
Order.objects.bulk_create(Order(customer=customers[i % 40], text=f"order {i}") for i in range(300))
