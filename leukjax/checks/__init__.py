"""What cannot be: arithmetic on the tables that papers print, and a look at folders of data."""
