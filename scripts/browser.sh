#!/usr/bin/env bash
# Make sure that Chromium and its driver are there for the test of the site.
set -euo pipefail
if command -v chromium >/dev/null && command -v chromedriver >/dev/null; then exit 0; fi
root=()
if [ "$(id -u)" -ne 0 ]; then root=(sudo -n); fi
if command -v apt-get >/dev/null && { [ "$(id -u)" -eq 0 ] || sudo -n true 2>/dev/null; }; then
  echo "Installing Debian's chromium and chromium-driver"
  "${root[@]}" apt-get update -qq
  DEBIAN_FRONTEND=noninteractive "${root[@]}" apt-get install -y -qq --no-install-recommends chromium chromium-driver >/dev/null
else
  echo "No chromium and chromedriver here, and no right to install them: install both by hand to test the site."
  echo "Without them the test of the site is skipped (with CI=true it fails)."
fi
