# Two stages: `score` runs the judge, `app` shows the board.
FROM python:3.11-slim AS score
RUN apt-get update && apt-get install -y --no-install-recommends bubblewrap dataset-fashion-mnist git && rm -rf /var/lib/apt/lists/*
WORKDIR /leakboard
COPY pyproject.toml README.md LICENSE ./
COPY benchmark benchmark
COPY leaderboard leaderboard
COPY leakboard leakboard
RUN pip install --no-cache-dir --editable '.[postgres]'
COPY submissions submissions
ENTRYPOINT ["leakboard"]
CMD ["run", "--protocol", "digits-v2"]

FROM score AS app
ENV LEAKBOARD_PUBLIC=1
EXPOSE 8501
ENTRYPOINT []
CMD ["streamlit", "run", "leaderboard/app.py", "--server.address", "0.0.0.0", "--server.port", "8501"]
