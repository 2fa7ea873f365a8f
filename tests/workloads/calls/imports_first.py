"""A program whose imports call far more than its work: the function asked for is called 40 times, later."""

import argparse  # noqa: F401
import asyncio  # noqa: F401
import concurrent.futures  # noqa: F401
import decimal  # noqa: F401
import email.mime.multipart  # noqa: F401
import http.server  # noqa: F401
import json  # noqa: F401
import logging.config  # noqa: F401
import multiprocessing.pool  # noqa: F401
import tarfile  # noqa: F401
import time
import unittest.mock  # noqa: F401
import xml.etree.ElementTree  # noqa: F401


def business(x):
    return x * 2


for i in range(20):
    business(i)
    time.sleep(0.02)
