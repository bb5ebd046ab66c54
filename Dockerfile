# Build:  docker build -t unigate .
# Run:    docker run --rm -p 127.0.0.1:8080:8080 -e API_KEYS=choose-a-key -e DEEPSEEK_API_KEY \
#             -e OLLAMA_URL=http://host.docker.internal:11434 \
#             --add-host host.docker.internal:host-gateway unigate
#
# In a container HOST has to be public, so unigate refuses to start without API_KEYS.
FROM python:3.12-slim

ENV PYTHONUNBUFFERED=1 \
    HOST=0.0.0.0 \
    PORT=8080 \
    LEDGER_URL=sqlite:////home/unigate/ledger/ledger.sqlite

# The home is writable because mitmproxy keeps its certificates there.
RUN useradd --create-home --uid 10001 unigate

WORKDIR /app

# The pins first: this layer is built again only when they change.
COPY requirements.lock ./
RUN pip install --no-cache-dir -r requirements.lock

COPY pyproject.toml rules.yaml ./
COPY wire wire
COPY rules rules
COPY addons addons
# Editable, so that the rules.yaml beside the packages is the one in use.
RUN pip install --no-cache-dir --no-deps --no-build-isolation -e .

USER unigate
# Made by its user, so that a volume mounted here is writable: docker run -v unigate-ledger:/home/unigate/ledger …
RUN mkdir /home/unigate/ledger
EXPOSE 8080
STOPSIGNAL SIGTERM

# The slim image has no curl. The empty proxy table keeps HTTP_PROXY out of a loopback call.
HEALTHCHECK --interval=30s --timeout=5s --start-period=10s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as r; r.build_opener(r.ProxyHandler({})).open('http://127.0.0.1:' + os.environ['PORT'] + '/health', timeout=4)"]

ENTRYPOINT ["unigate", "run"]
