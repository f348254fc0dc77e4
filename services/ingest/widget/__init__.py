"""What respondents are asked with: the script that a page embeds, and the kiosk that shows it on the whole screen."""
