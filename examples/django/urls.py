"""Two views that publish: an asynchronous one and a synchronous one."""

import json

from asgiref.sync import async_to_sync
from django.http import HttpRequest, JsonResponse
from django.urls import path
from django.views.decorators.csrf import csrf_exempt
from live import relay


@csrf_exempt
async def new_cat(request: HttpRequest) -> JsonResponse:
    position = await relay.publish("cats", json.loads(request.body))
    return JsonResponse({"position": str(position)})


@csrf_exempt
def new_dog(request: HttpRequest) -> JsonResponse:
    position = async_to_sync(relay.publish)("dogs", json.loads(request.body))
    return JsonResponse({"position": str(position)})


urlpatterns = [path("cats", new_cat), path("dogs", new_dog)]
