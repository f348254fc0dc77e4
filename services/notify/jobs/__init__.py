"""What notify looks at again and again besides pages: each is a loop over due rows, or over what changed."""
