"""The science of the pipeline: it turns files into files and knows neither Prefect nor DVC."""

__version__ = "0.1.0"
