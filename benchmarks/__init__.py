"""What the README's figures come from: peers and limits side by side, in one run."""
