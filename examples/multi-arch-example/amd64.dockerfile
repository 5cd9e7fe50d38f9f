# The image for linux/amd64. The base image is an argument, so that a mirror can be named.
ARG BASE=amd64/python:3-slim
FROM ${BASE}

WORKDIR /app
COPY requirements.txt .
RUN pip install --no-cache-dir -r requirements.txt
COPY app.py .

USER nobody
EXPOSE 8080
CMD ["python", "app.py"]
