"""A FastAPI service. `/keep` remembers the JSON text of what it was asked; `/models` makes as much and keeps nothing."""

import json

from fastapi import FastAPI
from pydantic import BaseModel

app = FastAPI()
kept = []


class Item(BaseModel):
    number: int
    name: str
    tags: list[str]


@app.get("/keep/{number}")
async def keep(number: int):
    kept.append(json.dumps([{"number": i, "name": f"item {i}", "of": number} for i in range(70)]))
    return {"kept": len(kept)}


@app.get("/models")
async def models() -> list[Item]:
    return [Item(number=i, name=f"item {i}", tags=["a", "b"]) for i in range(40)]
