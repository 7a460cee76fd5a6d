"""From a purifier's posterior to a decided label: checked, cross-fitted, calibrated, routed, decided."""
