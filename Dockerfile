# gpt1 on CPUs: the demo, training, and the server. How to build and run it: docs/deploy.md
FROM python:3.12-slim-bookworm AS build
WORKDIR /source
RUN python -m venv /opt/gpt1
ENV PATH=/opt/gpt1/bin:$PATH
COPY constraints.txt ./
# PyPI's torch for Linux includes gigabytes of CUDA.
RUN pip install --no-cache-dir --no-deps --constraint constraints.txt \
    --index-url https://download.pytorch.org/whl/cpu torch
COPY pyproject.toml README.md LICENSE ./
COPY gpt1/version.py gpt1/version.py
# The dependencies alone, so that a change of the code does not install them again.
RUN pip install --no-cache-dir --constraint constraints.txt '.[serve,sklearn]'
COPY gpt1 gpt1
RUN pip install --no-cache-dir --no-deps --force-reinstall --constraint constraints.txt .

FROM python:3.12-slim-bookworm
RUN useradd --uid 10001 --no-log-init --create-home gpt1 && install --directory --owner gpt1 /runs
COPY --from=build /opt/gpt1 /opt/gpt1
ENV PATH=/opt/gpt1/bin:$PATH PYTHONUNBUFFERED=1
USER 10001
WORKDIR /runs
EXPOSE 8000
# Of the server; a container that runs another command has no use for it: docker run --no-healthcheck
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/health/live', timeout=4)"]
ENTRYPOINT ["gpt1"]
CMD ["demo", "--out", "/runs/demo"]
