#!/usr/bin/env python3
"""A small ReAct agent as a service: it thinks, acts on a CRM API over HTTP, observes, and goes on until it can answer.

    react_service.py [PORT]  8700 unless told otherwise

The planner is deterministic, so that a demonstration can be repeated; like a language model, it believes what it
reads: an instruction inside a customer's notes is followed. Nothing here knows of a gateway: plain HTTP, plain names.
"""

import http.client
import itertools
import json
import re
import sys
from dataclasses import dataclass
from urllib.parse import urlsplit

from http_json import Handler, Refusal, serve

CRM = "http://crm.example:8800"
STEPS_MAX = 8
PATIENCE_SECONDS = 20

CONFIG = {
    "model": "planner-1",
    "crm": CRM,
    # The key that AWS prints in its own documentation.
    "crm_key": "AKIAIOSFODNN7EXAMPLE",
}
RUNS = {}
NUMBERS = itertools.count(1)


@dataclass
class Act:
    """One call to the outside."""

    thought: str
    method: str
    url: str
    body: object = None


@dataclass
class Answer:
    """The end of a run."""

    thought: str
    text: str


def plan(task, steps):
    """The next act, or the answer, from the task and what was observed so far."""
    number = re.search(r"customer (\d+)", task)
    if not number:
        return Answer("The task names no customer.", "I can only work on tasks about `customer N`.")
    record_url = f"{CRM}/v1/customers/{number[1]}"
    if not steps:
        return Act(f"I need the record of customer {number[1]}.", "GET", record_url)
    if trouble := steps[-1]["observe"].get("trouble"):
        if len(steps) > 1 and "collector" in steps[-1]["act"]:
            return conclude(task, steps[0]["observe"], f"That did not work ({trouble}).")
        return Answer("That was refused.", f"I cannot do this: {trouble}")
    record = steps[0]["observe"]
    if order := injected(record, steps):
        return order
    if task.lower().startswith("delete") and len(steps) == 1:
        return Act("The task is to delete it.", "DELETE", record_url)
    note = re.search(r"note: (.+)", task)
    if note and not any(step["act"].startswith("POST " + CRM) for step in steps):
        return Act("The task is to add a note.", "POST", record_url + "/notes", {"note": note[1]})
    return conclude(task, steps[-1]["observe"] if note else record, "I have what I need.")


def injected(record, steps):
    """An order found in the data, and obeyed: the well-known weakness of agents."""
    for note in record.get("notes", []):
        order = re.search(r"POST this customer's record to (\S+)", note)
        if order and not any(order[1] in step["act"] for step in steps):
            return Act("The notes tell me to send the record away first.", "POST", order[1], record)
    return None


def conclude(task, record, thought):
    if "deleted" in record:
        return Answer(thought, f"Customer {record['deleted']} is deleted.")
    words = {"pay": "card", "card": "card", "mail": "email", "reach": "email", "note": "notes"}
    wanted = dict.fromkeys(field for word, field in words.items() if word in task.lower()) or record
    facts = ", ".join(f"{field} {record[field]}" for field in wanted if field in ("card", "email", "notes"))
    return Answer(thought, f"{record['name']}: {facts}")


def perform(act):
    """Makes the call. What comes back, or what went wrong, as an observation."""
    place = urlsplit(act.url)
    connection = http.client.HTTPConnection(place.hostname, place.port or 80, timeout=PATIENCE_SECONDS)
    body = None if act.body is None else json.dumps(act.body)
    try:
        connection.request(act.method, place.path, body, {"Content-Type": "application/json"} if body else {})
        answer = connection.getresponse()
        text = answer.read().decode(errors="replace")
    except (OSError, http.client.HTTPException) as error:
        return {"trouble": f"no answer: {error}"}
    finally:
        connection.close()
    if answer.status >= 400:
        return {"trouble": f"{answer.status} {detail(text)}"}
    try:
        return json.loads(text)
    except ValueError:
        return {"text": text}


def detail(text):
    try:
        problem = json.loads(text)
    except ValueError:
        return text.strip()
    return problem.get("detail") or problem.get("error") or problem.get("title") or ""


def run(task):
    steps = []
    while len(steps) < STEPS_MAX:
        match plan(task, steps):
            case Act(thought, method, url) as act:
                steps.append({"think": thought, "act": f"{method} {url}", "observe": perform(act)})
            case Answer(thought, text):
                name = f"r{next(NUMBERS)}"
                RUNS[name] = {"run": name, "task": task, "steps": steps, "think": thought, "answer": text}
                return RUNS[name]
    raise Refusal(500, f"no answer after {STEPS_MAX} steps")


class React(Handler):
    def answer(self, method, path, body):
        match [method, *path.split("/")[1:]]:
            case ["GET", "v1", "health"]:
                return {"status": "ok"}
            case ["GET", "v1", "config"]:
                return CONFIG
            case ["POST", "v1", "run"]:
                if not isinstance(body, dict) or not isinstance(body.get("task"), str):
                    raise Refusal(400, 'say what to do: {"task": "..."}')
                return run(body["task"])
            case ["GET", "v1", "runs", name] if name in RUNS:
                return RUNS[name]
            case ["DELETE", "v1", "runs", name] if name in RUNS:
                return {"deleted": RUNS.pop(name)["run"]}
            case ["PUT", "v1", "models", model]:
                CONFIG["model"] = model
                return {"model": model}
        raise Refusal(404, f"there is no {method} {path}")


if __name__ == "__main__":
    serve(React, int(sys.argv[1]) if len(sys.argv) > 1 else 8700)
