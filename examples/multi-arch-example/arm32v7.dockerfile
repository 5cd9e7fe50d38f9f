# The image for linux/arm/v7. The base image is an argument, so that a mirror can be named.
ARG BASE=arm32v7/python:3-slim
FROM ${BASE}

WORKDIR /app
COPY requirements.txt .
RUN pip install --no-cache-dir -r requirements.txt
COPY app.py .

USER nobody
EXPOSE 8080
CMD ["python", "app.py"]
